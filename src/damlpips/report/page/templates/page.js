"use strict";
document.documentElement.classList.add("js");

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  makeViewer();
});

// Tables: a button in each head; a second click turns the order round. What has no value comes last.
function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    button.disabled = false;
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.value;
      const sign = down ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => {
        const [one, other] = [value(a), value(b)];
        if (one === "" || other === "") return (one === "") - (other === "");
        if (column === 0) return sign * one.localeCompare(other, "en", { numeric: true });
        return sign * (Number(one) - Number(other));
      });
      body.append(...rows);
    });
  });
}

// The viewer: one dialog, filled with the pictures of the pair that was opened.
function makeViewer() {
  const part = (name) => document.getElementById(name ? `viewer-${name}` : "viewer");
  const viewer = part(), stage = part("stage"), slider = part("slider"), heat = part("heat");
  const pairs = [...document.querySelectorAll(".pair")].filter((pair) => pair.querySelector("button.open"));
  let shown = 0;
  let opener = null;

  const picture = (pair, kind) => pair.querySelector(`.${kind} img`);

  function cut() {
    stage.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `reference up to ${slider.value} percent, then the result`);
  }

  function paint() {
    const pair = pairs[shown];
    const map = picture(pair, "heat");
    const image = heat.checked && map ? map : picture(pair, "result");
    part("result").src = image.src;
    part("result").alt = image.alt;
    part("right").textContent = heat.checked && map ? "where they differ" : "result";
    part("scale").hidden = !(heat.checked && map);
  }

  function fill(index) {
    shown = (index + pairs.length) % pairs.length;
    const pair = pairs[shown];
    const reference = picture(pair, "reference");
    part("title").textContent = `${pair.dataset.score}  ${pair.dataset.name}`;
    part("place").textContent = pair.dataset.place;
    part("layers").textContent = pair.dataset.layers ? `Added by ${pair.dataset.layers}` : "";
    part("reference").src = reference.src;
    part("reference").alt = reference.alt;
    stage.style.setProperty("--aspect", `${reference.getAttribute("width")} / ${reference.getAttribute("height")}`);
    stage.style.setProperty("--ratio", reference.getAttribute("width") / reference.getAttribute("height"));
    heat.disabled = !picture(pair, "heat");
    part("missing").textContent = heat.disabled ? "There is no heat map of this pair; the page says why." : "";
    const scale = document.getElementById(pair.dataset.scale);
    part("scale").replaceChildren(...(scale ? [scale.cloneNode(true)] : []));
    part("scale").querySelectorAll("[id]").forEach((node) => node.removeAttribute("id"));
    paint();
  }

  function open(index, button) {
    opener = button;
    slider.value = 50;
    cut();
    fill(index);
    viewer.showModal();
    slider.focus();
  }

  pairs.forEach((pair, index) => {
    const button = pair.querySelector("button.open");
    button.hidden = false;
    button.addEventListener("click", () => open(index, button));
    pair.querySelector(".images").addEventListener("click", () => open(index, button));
  });

  slider.addEventListener("input", cut);
  heat.addEventListener("change", paint);
  part("close").addEventListener("click", () => viewer.close());
  part("previous").addEventListener("click", () => fill(shown - 1));
  part("next").addEventListener("click", () => fill(shown + 1));
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => { if (opener) opener.focus(); });

  // the picture itself can be dragged across, too
  function drag(event) {
    const box = stage.getBoundingClientRect();
    slider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    cut();
  }
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
}
