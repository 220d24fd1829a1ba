"""What does a student make of a teacher that knows nothing?"""
