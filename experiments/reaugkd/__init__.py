"""Does a student gain from looking things up in its teacher's memory, and at what cost?"""
