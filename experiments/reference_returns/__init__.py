"""What is the return of random actions, which counts as 0 in a benchmark?"""
