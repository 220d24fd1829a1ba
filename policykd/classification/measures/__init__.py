"""How good a student is, how much like its teacher, and what it knows of what the teacher knows."""
