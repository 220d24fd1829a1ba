"""How fast are many learners in one update against one SB3 learner?"""
