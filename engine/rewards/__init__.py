"""What an answer is worth: reward functions for GRPO and PPO, one class each, and the panel that
adds them up."""
