"""Does DiSK's guide help students that cannot get all right?"""
