"""Does each backbone learn like SB3's?"""
