"""The method: rollouts, where the gradient flows, rewards, and one update."""
