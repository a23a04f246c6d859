"""What trained models are worth: their loss on texts, and their answers to tasks."""
