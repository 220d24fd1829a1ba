"""Do students without velocities act as their teacher if they remember?"""
