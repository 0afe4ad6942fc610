"""The wire, versioned: worker frames, HTTP bodies and the shape of errors.

Types and conversions only; nothing here opens a socket or knows a framework.
"""
