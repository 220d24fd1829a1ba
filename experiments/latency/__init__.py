"""What does one action cost in each format, and what does int8 cost in return?"""
