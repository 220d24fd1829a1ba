"""What do many environments change, at equal environment steps and at equal gradient steps?"""
