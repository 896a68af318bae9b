"""Training loops, one page each: fastpg.train.reinforce, a2c, ppo, trpo and grpo."""
