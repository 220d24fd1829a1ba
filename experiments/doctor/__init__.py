"""How well does ``policykd doctor`` find what was broken on purpose?"""
