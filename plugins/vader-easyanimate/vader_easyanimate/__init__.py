"""EasyAnimate V2 as a vader backbone."""
