"""Training loops, one page each: fastpg.train.ppo and fastpg.train.reinforce."""
