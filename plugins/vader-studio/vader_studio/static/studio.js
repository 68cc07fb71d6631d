(() => {
  "use strict";
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const adopt = (root) => window.vaderClips && window.vaderClips.adopt(root);

  async function ask(address, body) {
    const options = body === undefined ? { headers: { "X-Vader-Studio": "page" } } : {
      method: "POST",
      headers: { "X-Vader-Studio": "page", ...(body instanceof Blob ? {} : { "Content-Type": "application/json" }) },
      body: body instanceof Blob ? body : JSON.stringify(body),
    };
    const answer = await fetch(address, options);
    if (answer.status === 304) return null;
    const json = (answer.headers.get("content-type") || "").includes("json");
    const found = json ? await answer.json() : await answer.text();
    if (!answer.ok || (json && found.error)) {
      const error = new Error(json ? found.error : found);
      error.key = json ? found.key : "";
      throw error;
    }
    return found;
  }

  // -- mistakes, beside their field -------------------------------------------------------------------------

  function clear(root) {
    all(".mistake", root).forEach((one) => { one.hidden = true; one.textContent = ""; });
    all("[aria-invalid]", root).forEach((one) => one.removeAttribute("aria-invalid"));
  }
  function tell(root, error) {
    const field = error.key && all(".field", root).find((one) => one.dataset.key === error.key);
    const place = field ? $(".mistake", field) : $("#mistake");
    if (!place) return;
    place.textContent = error.message;
    place.hidden = false;
    if (field) {
      const group = field.closest("details");
      if (group) group.open = true;
      const input = $("input, select, textarea", field);
      if (input) { input.setAttribute("aria-invalid", "true"); input.focus(); }
    }
  }
  const shielded = (root, work) => async (event) => {
    clear(root);
    try { await work(event); } catch (error) { tell(root, error); }
  };

  // -- jobs -------------------------------------------------------------------------------------------------

  const clock = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  };
  const said = (job) => {
    if (job.state === "queued") return "waiting";
    if (job.state !== "running") return job.state + (job.kind !== "sample" && job.message ? `: ${job.message}` : "");
    const left = job.progress.left === undefined ? "" : `, ${clock(job.progress.left)} left`;
    return (job.progress.text || "running") + left;
  };
  const ended = (job) => !["queued", "running"].includes(job.state);
  let revision = null;

  function show(place, job) {
    let card = document.getElementById(`job-${job.name}`);
    if (!card) {
      card = document.createElement("article");
      card.className = "job";
      card.id = `job-${job.name}`;
      card.innerHTML = "<header><h2></h2><span class=state></span><button type=button data-act=cancel>Cancel</button></header><progress max=1></progress><div class=body></div>";
      $("h2", card).textContent = job.title;
      $("button", card).dataset.name = job.name;
      const next = all(".job", place).find((one) => one.id < card.id);
      place.insertBefore(card, next || null);
    }
    const state = $(".state", card);
    state.textContent = said(job);
    state.className = `state ${job.state}`;
    const bar = $("progress", card);
    bar.hidden = job.state !== "running";
    if (job.progress.share === undefined) bar.removeAttribute("value"); else bar.value = job.progress.share;
    $("[data-act=cancel]", card).hidden = ended(job);
    const stamp = `${job.state}-${job.progress.text && job.progress.text.startsWith("clip") ? job.progress.text.split(",")[0] : ""}`;
    if (card.dataset.stamp !== stamp && (ended(job) || stamp.includes("clip"))) {
      card.dataset.stamp = stamp;
      body(card, job);
    }
  }
  async function body(card, job) {
    const place = $(".body", card);
    const link = (address, text) => {
      place.innerHTML = '<p><a class="button"></a></p>';
      $("a", place).href = address;
      $("a", place).textContent = text;
    };
    if (job.kind === "compare" && job.state === "done") {
      link(`/compare/${encodeURIComponent(job.name)}`, "Open the comparison");
      return;
    }
    if (job.kind === "train") { link(`/runs/${encodeURIComponent(job.title)}`, "Open the run"); return; }
    if (place.closest(".lines")) {
      if (job.result.batch) link(`/batches/${encodeURIComponent(job.result.batch)}`, "Open the clips");
      else place.textContent = job.state === "failed" ? job.message : "";
      return;
    }
    const html = await ask(`/jobs/${encodeURIComponent(job.name)}/body`);
    if (place.dataset.html === String(html.length) + html.slice(-64)) return;
    place.dataset.html = String(html.length) + html.slice(-64);
    place.innerHTML = html;
    adopt(place);
  }
  async function jobs() {
    const place = $("#jobs");
    const kinds = place ? (place.dataset.kinds || "sample score").split(" ") : [];
    try {
      const found = await ask(`/api/jobs${revision === null ? "" : `?since=${revision}`}`);
      revision = found.revision;
      if (found.jobs) {
        const running = found.jobs.filter((job) => job.state === "running");
        const queue = $("#queue");
        if (queue) queue.textContent = [running.map((job) => `${job.title.slice(0, 40)}: ${said(job)}`).join(" · "), found.waiting ? `${found.waiting} waiting` : ""].filter(Boolean).join(" · ") || "Queue";
        const shown = found.jobs.filter((job) => kinds.includes(job.kind));
        if ($("#nothing") && shown.length) $("#nothing").remove();
        if (place) shown.slice(0, 30).reverse().forEach((job) => show(place, job));
      }
    } catch (error) { revision = null; }
    setTimeout(jobs, document.hidden ? 4000 : 700);
  }

  // -- generate ---------------------------------------------------------------------------------------------

  const form = $("#generate");
  async function fields(changes = {}) {
    const kept = form.elements.prompt ? { prompt: form.elements.prompt.value, negative: form.elements.negative && form.elements.negative.value, loras: loras() } : {};
    const query = new URLSearchParams({ backbone: value("backbone.name"), run: value("run"), ...changes });
    if (!query.get("backbone")) query.delete("backbone");
    const place = $("#fields");
    try {
      place.innerHTML = await ask(`/generate/fields?${query}`);
    } catch (error) {
      place.innerHTML = '<p class="mistake"></p>';
      $("p", place).textContent = error.message;
      return;
    }
    if (kept.prompt && form.elements.prompt) form.elements.prompt.value = kept.prompt;
    if (kept.negative && form.elements.negative) form.elements.negative.value = kept.negative;
    setLoras(kept.loras && kept.loras.length ? kept.loras : []);
  }
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const loras = () => all(".lora", form).map((row) => [$("select", row).value, $("input", row).value]).filter(([place]) => place);
  function setLoras(list) {
    const place = $("#loras");
    list.forEach(([lora, scale], index) => {
      if (index >= all(".lora", place).length) place.append($("#lora-row").content.cloneNode(true));
      const row = all(".lora", place)[index];
      if ([...$("select", row).options].some((option) => option.value === lora)) $("select", row).value = lora;
      $("input", row).value = scale;
    });
  }
  function asked() {
    const values = {};
    all("[data-default]", form).forEach((input) => {
      if (input.value !== input.dataset.default || input.name.startsWith("video.") || input.name === "trainer.seed") values[input.name] = input.value;
    });
    values["backbone.name"] = value("backbone.name");
    return {
      values, loras: loras(), run: value("run"), prompt: value("prompt"), negative: value("negative"),
      count: value("count"), base: form.elements.base.checked, image: value("image"), reference: value("reference"),
      mask_strategy: value("mask_strategy"), rewards: [...form.elements.rewards.selectedOptions].map((one) => one.value),
    };
  }
  async function again(name) {
    const held = await ask(`/api/jobs/${encodeURIComponent(name)}/again`);
    await fields({ backbone: held.values["backbone.name"] || "", run: held.run, ...(held.values["sampler.name"] ? { sampler: held.values["sampler.name"] } : {}) });
    Object.entries(held.values).forEach(([key, text]) => { if (form.elements[key]) form.elements[key].value = text; });
    form.elements.prompt.value = held.prompt;
    if (form.elements.negative) form.elements.negative.value = held.negative || "";
    if (form.elements.count) form.elements.count.value = held.count;
    form.elements.base.checked = held.base;
    if (form.elements.image && held.image) form.elements.image.value = held.image;
    [...form.elements.rewards.options].forEach((option) => { option.selected = held.rewards.includes(option.value); });
    setLoras(held.loras);
    form.scrollIntoView({ block: "start" });
  }
  if (form) {
    const wanted = new URLSearchParams(location.search).get("run");
    fields(wanted ? { run: wanted } : {}).then(() => {
      if (wanted) all(".lora select option", form).filter((one) => one.textContent === wanted).slice(0, 1).forEach((one) => { one.selected = true; });
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      shielded(form, async () => {
        await ask("/api/sample", asked());
        revision = null;
        if (innerWidth <= 960) $("#jobs").scrollIntoView({ block: "start" });
      })();
    });
    form.addEventListener("change", shielded(form, async (event) => {
      const input = event.target;
      if (input.name === "backbone.name") await fields({ run: "" });
      if (input.name === "sampler.name") await fields({ sampler: input.value });
      if (input.name === "run") await fields();
      if (input.dataset.upload && input.files[0]) {
        const field = input.closest(".field");
        try {
          const found = await ask("/api/uploads", input.files[0]);
          $(`input[name=${input.dataset.upload}]`, field).value = found.name;
          $("[data-said]", field).textContent = `${input.files[0].name} is ready`;
        } catch (error) { error.key = input.dataset.upload; throw error; }
      }
    }));
  }

  // -- runs -------------------------------------------------------------------------------------------------

  const live = $("#live");
  let tag = null;
  async function refresh() {
    const answer = await fetch(`/runs/${live.dataset.run}/body`, { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 304 || !answer.ok) return;
    tag = answer.headers.get("etag");
    const fresh = document.createElement("div");
    fresh.innerHTML = await answer.text();
    const place = $("#body");
    [...fresh.children].forEach((part, index) => {
      const held = part.id && document.getElementById(part.id);
      if (held && place.contains(held)) {
        if (held.dataset.was === part.outerHTML) return;
        const open = all("details", held).map((one) => one.open);
        const was = part.outerHTML;
        held.replaceWith(part);
        part.dataset.was = was;
        all("details", part).forEach((one, number) => { one.open = open[number] || false; });
      } else {
        part.dataset.was = part.outerHTML;
        place.insertBefore(part, place.children[index] || null);
      }
      adopt(part);
    });
  }
  async function watch() {
    try {
      const found = await ask(`/api/runs/${live.dataset.run}`);
      const running = found.state === "running" || Boolean(found.job);
      const state = $("#state");
      const word = found.job ? found.job.state : found.state;
      state.textContent = word;
      state.className = `state ${word}`;
      $("#progress").textContent = found.job ? said(found.job) : `step ${found.step}${found.max_steps ? ` of ${found.max_steps}` : ""}${found.left === undefined ? "" : `, ${clock(found.left)} left`}`;
      const bar = $("#bar");
      bar.hidden = !running;
      if (found.max_steps) bar.value = found.step / found.max_steps;
      if ($("[data-act=stop]")) { $("[data-act=stop]").hidden = !found.job; $("#resume").hidden = running; }
      await refresh();
    } catch (error) { /* the server is away: look again */ }
    setTimeout(watch, document.hidden ? 5000 : 1000);
  }
  if (live) watch();

  const fresh = $("#new-run");
  if (fresh) {
    const told = () => { $("#recipe-help").textContent = fresh.elements.recipe.selectedOptions[0]?.dataset.help || ""; };
    told();
    const request = () => ({ recipe: fresh.elements.recipe.value, name: fresh.elements.name.value, options: fresh.elements.options.value });
    fresh.addEventListener("input", () => { told(); $("[type=submit]", fresh).disabled = true; });
    fresh.elements.name.addEventListener("input", (event) => event.stopPropagation());
    fresh.plan = shielded(fresh, async () => {
      $("#plan").textContent = "Planning …";
      try { $("#plan").innerHTML = await ask("/api/plan", request()); } catch (error) { $("#plan").textContent = ""; throw error; }
      $("[type=submit]", fresh).disabled = false;
    });
    fresh.addEventListener("submit", (event) => {
      event.preventDefault();
      shielded(fresh, async () => {
        const found = await ask("/api/runs", request());
        const opened = async () => {
          const run = await ask(`/api/runs/${encodeURIComponent(found.run)}`);
          if (run.state !== "absent") { location.href = `/runs/${encodeURIComponent(found.run)}`; return; }
          const held = await ask("/api/jobs");
          const job = held.jobs.find((one) => one.name === found.job.name);
          if (job && job.state === "failed") { tell(fresh, new Error(job.message)); return; }
          $("#plan").textContent = job ? `The run is queued: ${said(job)}` : "The run is queued.";
          setTimeout(opened, 700);
        };
        await opened();
      })();
    });
  }

  // -- compare, label, and every button ---------------------------------------------------------------------

  const comparing = $("#compare");
  if (comparing) {
    const wanted = new URLSearchParams(location.search).get("with");
    [...comparing.elements.subjects.options].forEach((option) => { option.selected = option.value === wanted; });
    comparing.addEventListener("submit", (event) => {
      event.preventDefault();
      shielded(comparing, async () => {
        const chosen = (name) => [...comparing.elements[name].selectedOptions].map((one) => one.value);
        await ask("/api/compare", {
          subjects: chosen("subjects").map((place) => [place, 1]), rewards: chosen("rewards"), prompt: comparing.elements.prompt.value,
          max_prompts: comparing.elements.max_prompts.value, count: comparing.elements.count.value, scales: comparing.elements.scales.value,
        });
        revision = null;
      })();
    });
  }
  const acts = {
    "add-lora": () => $("#loras").append($("#lora-row").content.cloneNode(true)),
    refresh: () => fields(),
    dice: () => { const seed = form.elements["trainer.seed"]; seed.value = Math.floor(Math.random() * 2 ** 31); seed.closest("details").open = true; },
    again: (button) => again(button.dataset.name),
    cancel: (button) => ask(`/api/jobs/${encodeURIComponent(button.dataset.name)}/cancel`, {}),
    plan: () => fresh.plan(),
    stop: () => ask(`/api/runs/${live.dataset.run}/stop`, {}),
    resume: () => ask(`/api/runs/${live.dataset.run}/resume`, { max_steps: $("input[name=max_steps]").value }),
    choose: async (button) => {
      const files = JSON.parse($("#label").dataset.files);
      const side = button.dataset.side === "1" ? 1 : 0;
      await ask("/api/label", { chosen: files[side], rejected: files[1 - side], tie: button.dataset.side === "tie" });
      location.reload();
    },
    undo: async () => { await ask("/api/label/undo", {}); location.reload(); },
  };
  document.addEventListener("keydown", (event) => {
    if (!$("[data-act=undo]") || event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const wanted = { ArrowLeft: "[data-side='0']", ArrowRight: "[data-side='1']", ArrowDown: "[data-side=tie]", u: "[data-act=undo]" }[event.key];
    const button = wanted && $(wanted);
    if (button && !button.hidden) { event.preventDefault(); button.click(); }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (button) shielded(document, () => acts[button.dataset.act](button))();
  });
  document.addEventListener("change", (event) => {
    const batch = event.target.dataset.score;
    if (batch && event.target.value) shielded(document, () => ask("/api/score", { batch, rewards: [event.target.value] }))();
  });
  jobs();
})();
