// What a reader would see wrong on the page as it stands, one line for each: run by test_browser.py in every page.
() => {
  const found = new Set();
  const name = e => (e.tagName.toLowerCase() + (e.id ? "#" + e.id : "")
    + [...e.classList].slice(0, 3).map(c => "." + c).join(""));
  const words = e => (e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
  const seen = e => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });

  // the page, and whatever sticks out of it and is not in a box that scrolls or in the drawer of a phone
  const width = document.documentElement.clientWidth;
  const boxed = e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return true;
    return false;
  };
  if (document.documentElement.scrollWidth > width) found.add(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const e of document.querySelectorAll("main *")) {
    const r = e.getBoundingClientRect();
    if (r.right > width + 1 && r.width && seen(e) && !boxed(e) && !e.closest(".bd-sidebar-secondary")) { found.add(`sticks out at the right: ${name(e)} ${words(e)}`); break; }
  }

  // what a wide window shows only to those who find that it scrolls
  if (width > 1000) for (const e of document.querySelectorAll("mjx-container[display=true], main table, main pre"))
    if (seen(e) && e.scrollWidth > e.clientWidth + 2) found.add(`${e.scrollWidth - e.clientWidth} px are cut off: ${name(e)} ${words(e)}`);

  // formulas
  for (const e of document.querySelectorAll(".math")) {
    if (!e.querySelector("mjx-container")) found.add(`not typeset: ${words(e)}`);
    if (e.querySelector("mjx-merror, [data-mml-node=merror]")) found.add(`typeset as an error: ${words(e)}`);
  }

  // controls that say nothing, and an order of tabs that is not the order of the page
  for (const e of document.querySelectorAll("a[href], button, input, select, textarea, summary, [role=button]")) {
    if (!seen(e) || e.type === "hidden") continue;
    const own = e.getAttribute("aria-label") || e.title || words(e) || e.querySelector("img[alt], svg[aria-label]");
    const by = [...(e.labels || [])].some(l => words(l)) || document.getElementById(e.getAttribute("aria-labelledby"));
    if (!own && !by) found.add(`without a name: ${name(e)} ${e.name ?? ""}`);
  }
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) found.add(`jumps the order of tabs: ${name(e)}`);

  // contrast of text with what is behind it, as the Web Content Accessibility Guidelines 2.2 define it (1.4.3)
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }), colors = new Map();
  const rgba = text => {                            // any CSS colour as [r, g, b, alpha], 0 to 1
    if (!colors.has(text)) {
      pen.clearRect(0, 0, 1, 1); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1);
      colors.set(text, [...pen.getImageData(0, 0, 1, 1).data].map(v => v / 255));
    }
    return colors.get(text);
  };
  const over = (top, below) => [0, 1, 2].map(k => top[k] * top[3] + below[k] * (1 - top[3])).concat(1);
  const backs = new Map();
  const back = e => {                               // the colour behind what an element holds
    if (!e) return rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#fff");
    if (!backs.has(e)) backs.set(e, over(rgba(getComputedStyle(e).backgroundColor), back(e.parentElement)));
    return backs.get(e);
  };
  const fade = e => { let f = 1; for (; e; e = e.parentElement) f *= getComputedStyle(e).opacity; return f; };
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) =>
    sum + w * (c[k] <= 0.04045 ? c[k] / 12.92 : ((c[k] + 0.055) / 1.055) ** 2.4), 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const judge = (e, style, text) => {
    const behind = back(e.closest("svg")?.parentElement ?? e), ink = [...rgba(e.closest("svg") ? style.fill : style.color)];
    ink[3] *= fade(e);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const got = ratio(over(ink, behind), behind);
    if (got < (large ? 3 : 4.5) - 0.005) found.add(`contrast ${got.toFixed(2)}: ${name(e)} ${text}`);
  };
  const judged = new Set();                         // not the button that fades in and out at the foot of the window
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    let e = node.parentElement;
    if (!node.data.trim() || e.closest("script, style, noscript, template, title, desc, mjx-assistive-mml, :disabled, [aria-disabled=true], #pst-back-to-top")) continue;
    if (judged.has(e)) continue;
    judged.add(e);
    if (!seen(e)) continue;
    const r = e.getBoundingClientRect();
    if (r.width > 1 && r.height > 1) judge(e, getComputedStyle(e), words(e));
  }
  for (const e of document.querySelectorAll("mjx-container")) if (seen(e)) judge(e, getComputedStyle(e), "a formula");
  for (const e of document.querySelectorAll("input[placeholder]"))
    if (seen(e)) judge(e, getComputedStyle(e, "::placeholder"), e.placeholder);
  return [...found];
}
