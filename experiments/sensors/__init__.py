"""Which of a robot's sensors does a student need, whose teacher sees all?"""
