"""Every option of every stage, with its default, meaning and limits."""
