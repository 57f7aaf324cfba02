// The drawing area: strokes in, the nets' answers out. Needs net.js before it, and the page's elements.
"use strict";

(() => {
  const element = (id) => document.getElementById(id);
  const carried = JSON.parse(element("nets").textContent);
  const nets = carried.nets.map(unpack);
  const canvas = element("canvas"), seen = element("seen"), verdict = element("verdict");
  const answer = (net, pixels) => logits(net, pixels, carried.mean, carried.std);

  /** Refuses to answer if this browser does not compute what the trained nets do; 1e-4 is the exporter's bound. */
  function check() {
    for (const net of nets)
      for (const known of net.check)
        if (!answer(net, known.pixels).every((value, i) => Math.abs(value - known.logits[i]) < 1e-4))
          throw new Error(`${net.name} does not answer here as it was trained to`);
  }

  const PEN = 13; // of 160 pixels: what MNIST's strokes are to a digit drawn over most of the area
  const STEP = 6; // pixels an arrow key moves the pen
  let strokes = [], open = null, scheduled = false;
  const pen = { x: WORKING / 2, y: WORKING / 4, down: false, shown: false };

  function ink(context, size, colour) {
    const scale = size / WORKING;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN * scale;
    context.strokeStyle = colour;
    for (const stroke of strokes) {
      context.beginPath();
      context.moveTo(stroke[0].x * scale, stroke[0].y * scale);
      for (const point of stroke) context.lineTo(point.x * scale, point.y * scale);
      context.stroke();
    }
  }

  /** The strokes as the nets' preparation takes them: 160 x 160, white ink on black. */
  function rasterised() {
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = WORKING;
    const context = sheet.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, WORKING, WORKING);
    ink(context, WORKING, "#fff");
    const rgba = context.getImageData(0, 0, WORKING, WORKING).data;
    return Uint8Array.from({ length: WORKING * WORKING }, (_, i) => rgba[4 * i]);
  }

  function paint() {
    const side = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext("2d"), colours = getComputedStyle(document.documentElement);
    context.clearRect(0, 0, side, side);
    ink(context, side, colours.getPropertyValue("--ink").trim());
    if (pen.shown) {
      context.beginPath();
      context.arc((pen.x * side) / WORKING, (pen.y * side) / WORKING, (PEN * side) / WORKING / 2 + 2, 0, 7);
      context.lineWidth = side / 160;
      context.strokeStyle = colours.getPropertyValue(pen.down ? "--a" : "--soft").trim();
      context.stroke();
    }
  }

  function read() {
    const { pixels, blank, several } = prepare(rasterised());
    const image = new ImageData(28, 28);
    pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
    seen.getContext("2d").putImageData(image, 0, 0);
    const answers = blank ? null : nets.map((net) => softmax(answer(net, pixels)));
    document.querySelectorAll("#probabilities tbody tr").forEach((row, digit) => {
      row.querySelectorAll("td").forEach((cell, i) => {
        const p = answers ? answers[i][digit] : 0;
        cell.querySelector(".bar").style.width = `calc((100% - 0.8rem) * ${p})`;
        cell.querySelector(".value").textContent = answers ? `${(100 * p).toFixed(1)} %` : "\u2013";
        cell.classList.toggle("first", answers !== null && p === Math.max(...answers[i]));
      });
    });
    return { answers, several };
  }

  function tell({ answers, several }) {
    if (!answers) {
      verdict.textContent = strokes.length ? "No ink found." : "Nothing drawn yet.";
      return;
    }
    const said = nets.map((net, i) => {
      const p = Math.max(...answers[i]);
      return `${net.name} says ${answers[i].indexOf(p)}, ${(100 * p).toFixed(1)} %`;
    });
    verdict.textContent = `${said.join("; ")}.${several ? " Several pieces: the largest was read." : ""}`;
  }

  /** Paints and reads at most once a frame; says it in words when a stroke is over, so that a reader is not flooded. */
  function update() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      paint();
      const answers = read();
      if (!open || pen.shown) tell(answers);
    });
  }

  function place(event) {
    const area = canvas.getBoundingClientRect();
    const inside = (value) => Math.min(Math.max(value, 0), WORKING);
    return {
      x: inside(((event.clientX - area.left) / area.width) * WORKING),
      y: inside(((event.clientY - area.top) / area.height) * WORKING),
    };
  }

  function begin(point) {
    open = [point];
    strokes.push(open);
    update();
  }

  function end() {
    open = null;
    pen.down = false;
    update();
  }

  function clear() {
    strokes = [];
    end();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    pen.shown = false;
    begin(place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!open || !event.isPrimary || pen.shown) return;
    const passed = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const at of passed.length ? passed : [event]) open.push(place(at));
    update();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => open && end());

  const MOVES = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const move = MOVES[event.key];
    if (move) {
      pen.x = Math.min(Math.max(pen.x + move[0], 0), WORKING);
      pen.y = Math.min(Math.max(pen.y + move[1], 0), WORKING);
      if (pen.down) open.push({ x: pen.x, y: pen.y });
    } else if (event.key === " ") {
      pen.down = !pen.down;
      if (pen.down) begin({ x: pen.x, y: pen.y });
      else open = null;
    } else if (event.key === "Escape") {
      clear();
    } else {
      return;
    }
    event.preventDefault();
    pen.shown = true;
    update();
  });
  canvas.addEventListener("blur", () => {
    pen.shown = false;
    end();
  });
  element("clear").addEventListener("click", clear);
  element("undo").addEventListener("click", () => {
    strokes.pop();
    end();
  });
  window.addEventListener("resize", paint);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  try {
    check();
    paint();
    read();
  } catch (error) {
    verdict.textContent = `No answer: ${error.message}.`;
    throw error;
  }
})();
