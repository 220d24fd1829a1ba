"""Do losses of classifiers, and memories of states, help small policies copy a teacher?"""
