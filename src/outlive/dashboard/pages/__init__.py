"""The pages, one module each: what they ask the application, and what they show of it."""
