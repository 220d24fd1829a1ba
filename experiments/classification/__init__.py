"""How do all classification methods compare on equal terms, and what does the distiller cost?"""
