"""Do classifiers of several owners gain from teaching one another by counterfactuals?"""
