"""Does RL after distillation keep what a student has learnt, off policy?"""
