(() => {
  const clips = [...document.querySelectorAll("video")];
  const controls = document.querySelector(".controls");
  if (!controls || !clips.length) return;
  controls.hidden = false;
  const [pause, restart] = controls.querySelectorAll("button");
  let playing = true;
  const play = () => { playing = true; pause.textContent = "Pause"; clips.forEach((clip) => clip.play()); };
  const stop = () => { playing = false; pause.textContent = "Play"; clips.forEach((clip) => clip.pause()); };
  pause.addEventListener("click", () => (playing ? stop() : play()));
  restart.addEventListener("click", () => { clips.forEach((clip) => { clip.currentTime = 0; }); play(); });
})();
