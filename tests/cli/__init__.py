"""The commands, as processes of their own against a real grid."""
