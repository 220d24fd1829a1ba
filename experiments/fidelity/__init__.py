"""Does a student become its teacher?"""
