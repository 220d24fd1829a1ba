"""How long do plan and page of a large benchmark take, and how large is the page?"""
