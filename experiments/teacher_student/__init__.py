"""How good are students of the zoo's agents, by method, size and imperfection of the teacher?"""
