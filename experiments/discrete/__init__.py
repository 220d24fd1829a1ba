"""What do students keep of teachers with discrete actions, by size and by loss?"""
