(() => {
  "use strict";
  const state = { playing: true, share: null };
  const clips = (root) => [...root.querySelectorAll("video")];
  const all = () => clips(document);
  const seen = new WeakSet();
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    entry.target.near = entry.isIntersecting;
    if (entry.isIntersecting && state.playing) play(entry.target); else entry.target.pause();
  }), { rootMargin: "200px" });
  const play = (clip) => clip.play().catch(() => {});

  function setPlaying(playing) {
    state.playing = playing;
    document.querySelectorAll("[data-do=pause]").forEach((button) => { button.textContent = playing ? "Pause" : "Play"; });
    all().forEach((clip) => (playing && clip.near !== false ? play(clip) : clip.pause()));
  }
  function seek(share, root) {
    clips(root).forEach((clip) => { if (clip.duration) clip.currentTime = Math.min(share, 0.999) * clip.duration; });
  }
  function adopt(root) {
    clips(root).forEach((clip) => {
      if (seen.has(clip)) return;
      seen.add(clip);
      clip.removeAttribute("controls");
      clip.muted = true;
      near.observe(clip);
    });
    root.querySelectorAll(".controls[hidden]").forEach((one) => { one.hidden = false; });
  }
  function copy(button) {
    const said = button.textContent;
    const done = (text) => { button.textContent = text; setTimeout(() => { button.textContent = said; }, 1500); };
    const text = button.dataset.copy;
    const fallback = () => {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      done(copied ? "Copied" : "Press Ctrl-C");
    };
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(() => done("Copied"), fallback);
    else fallback();
  }

  let shown = null;
  const dialog = document.createElement("dialog");
  function pairs() { return [...document.querySelectorAll(".pair")].filter((pair) => pair.querySelector("video")); }
  function enlarge(pair) {
    shown = pair;
    dialog.replaceChildren();
    dialog.className = pair.closest(".small") ? "small" : "";
    const prompt = pair.querySelector(".prompt");
    if (prompt) dialog.append(prompt.cloneNode(true));
    const sides = document.createElement("div");
    sides.className = "sides";
    pair.querySelectorAll(".side").forEach((side) => sides.append(side.cloneNode(true)));
    dialog.append(sides);
    const bar = document.createElement("div");
    bar.className = "controls";
    bar.innerHTML = '<button type="button" data-do="pause"></button><button type="button" data-do="restart">From the start</button>'
      + '<label>Time <input type="range" min="0" max="1000" value="0" data-do="scrub" aria-label="Time"></label>';
    const two = clips(sides).length >= 2;
    if (two) bar.insertAdjacentHTML("beforeend", '<button type="button" data-do="wipe" aria-pressed="false">Wipe</button>');
    bar.insertAdjacentHTML("beforeend", '<button type="button" data-do="close">Close</button>');
    dialog.append(bar);
    adopt(dialog);
    if (!dialog.open) dialog.showModal();
    setPlaying(state.playing);
    seek(0, dialog);
  }
  function wipe(button) {
    const sides = dialog.querySelector(".sides, .stack");
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const figures = [...sides.querySelectorAll("figure")];
    const [first, last] = [figures[0], figures[figures.length - 1]];
    figures.forEach((figure) => { figure.hidden = on && figure !== first && figure !== last; });
    sides.className = on ? "stack" : "sides";
    dialog.querySelector("[data-do=edge]")?.closest("label").remove();
    last.style.clipPath = on ? "inset(0 0 0 50%)" : "";
    if (on) button.insertAdjacentHTML("afterend", '<label>Edge <input type="range" min="0" max="100" value="50" data-do="edge" aria-label="Edge"></label>');
  }
  const actions = {
    pause: () => setPlaying(!state.playing),
    restart: (button) => { seek(0, dialog.open ? dialog : document); setPlaying(true); },
    wipe, copy, close: () => dialog.close(),
    enlarge: (button) => enlarge(button.closest(".pair")),
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (button && actions[button.dataset.do]) { actions[button.dataset.do](button); return; }
    const clip = event.target.closest("video");
    if (!clip) return;
    if (dialog.contains(clip)) setPlaying(!state.playing);
    else if (clip.closest(".pair")) enlarge(clip.closest(".pair"));
  });
  document.addEventListener("input", (event) => {
    const range = event.target;
    if (range.dataset.do === "scrub") { setPlaying(false); seek(range.value / 1000, dialog.contains(range) ? dialog : document); }
    if (range.dataset.do === "edge") {
      const figures = dialog.querySelectorAll("figure");
      figures[figures.length - 1].style.clipPath = `inset(0 0 0 ${range.value}%)`;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select, [contenteditable]") && event.key !== "Escape") return;
    if (event.key === " " && !event.target.closest("button, summary, a")) { event.preventDefault(); setPlaying(!state.playing); }
    if (!dialog.open || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const list = pairs();
    const next = list[list.indexOf(shown) + (event.key === "ArrowRight" ? 1 : -1)];
    if (next) enlarge(next);
  });
  dialog.addEventListener("close", () => { shown = null; dialog.replaceChildren(); });
  setInterval(() => {
    if (!state.playing) return;
    document.querySelectorAll("input[data-do=scrub]").forEach((range) => {
      const root = dialog.contains(range) ? dialog : document;
      const clip = clips(root).find((one) => one.near !== false && one.duration);
      if (clip) range.value = Math.round((1000 * clip.currentTime) / clip.duration);
    });
  }, 200);
  document.body.append(dialog);
  document.documentElement.classList.add("scripted");
  adopt(document);
  window.vaderClips = { adopt };
})();
