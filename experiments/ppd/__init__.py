"""Why is Proximal Policy Distillation weak at a short budget, and does it keep what its paper reports?"""
