"""How the shipped model and prompts were made; nobody needs it to read, rerun or use the study."""
