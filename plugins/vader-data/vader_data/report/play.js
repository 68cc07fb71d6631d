// Films play while they are on the screen, and only then.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) entry.target.play().catch(() => {});
    else entry.target.pause();
  }
});
for (const film of document.querySelectorAll("video")) watcher.observe(film);
