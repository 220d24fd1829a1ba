"""Does memory hold what it says?"""
