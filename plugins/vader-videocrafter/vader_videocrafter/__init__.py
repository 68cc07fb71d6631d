"""VideoCrafter2 for vader: the backbone `videocrafter` and the sampler `ddim_videocrafter`."""
