"""Endpoints for Starlette and FastAPI applications, on the feed of their own process."""
