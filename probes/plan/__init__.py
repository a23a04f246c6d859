"""Memory, time and cost of a training step that no machine here can run: docs/planner.md."""
