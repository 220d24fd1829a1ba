"""Do peers pay? protocol.md says what is asked and how."""
