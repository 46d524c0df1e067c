"""The protocols that clients speak: bytes to requests, answers to bytes. Nothing here knows a transport."""
