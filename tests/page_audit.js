// Contrast, labels, order of headings, landmarks, overflow and errors of a page: `tests/browser.py`.
window.failures = [];
addEventListener("error", (event) => failures.push(`error: ${event.message}`));
function audit() {
  const height = document.documentElement.scrollHeight, problems = [...failures];
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const shown = (one) => one.checkVisibility() && one.getClientRects().length;
  const name = (one) => `${one.tagName.toLowerCase()}${one.id ? "#" + one.id : ""} ${(one.textContent || "").trim().slice(0, 30)}`;
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) problems.push(`wider than the window by ${wide} px`);
  if (!document.title || !document.documentElement.lang) problems.push("no title or no language");
  if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) problems.push("not one main, one h1");
  let level = 0;
  for (const one of [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(shown)) {
    const next = +one.tagName[1];
    if (next > level + 1) problems.push(`heading h${next} after h${level}: ${name(one)}`);
    level = next;
  }
  for (const one of document.querySelectorAll("input, select, textarea"))
    if (!one.labels.length && !one.ariaLabel) problems.push(`no label: ${name(one)}`);
  for (const one of document.querySelectorAll("button, summary, a")) if (!one.textContent.trim() && !one.ariaLabel) problems.push(`no name: ${name(one)}`);
  for (const one of document.querySelectorAll("[aria-label]"))
    if (["DIV", "SPAN", "PRE", "P"].includes(one.tagName) && !one.getAttribute("role")) problems.push(`a label of what has no role: ${name(one)}`);
  for (const one of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(one.getAttribute("aria-labelledby"))) problems.push(`labelled by nothing: ${name(one)}`);
  const every = [...document.querySelectorAll("[id]")].map((one) => one.id);
  if (new Set(every).size < every.length) problems.push("an id twice");
  for (const one of document.querySelectorAll("*")) {
    const scrolls = one.scrollWidth > one.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
    if (scrolls && shown(one) && one.tabIndex < 0 && !one.querySelector("a, button, input, select")) problems.push(`scrolls and takes no focus: ${name(one)}`);
  }
  const rgb = (text) => { const found = text.match(/[\d.]+/g).map(Number); return { c: found.slice(0, 3), a: found[3] ?? 1 }; };
  const light = ({ c }) => { const [r, g, b] = c.map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (one) => { for (let at = one; at; at = at.parentElement) { const found = rgb(getComputedStyle(at).backgroundColor); if (found.a > .99) return found; } return rgb(dark ? "rgb(0,0,0)" : "rgb(255,255,255)"); };
  for (const one of document.querySelectorAll("body *")) {
    if (one.closest("script, style, noscript, option, [disabled]") || !shown(one) || ![...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(one), size = parseFloat(style.fontSize);
    const ink = rgb(one instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [light(ink), light(behind(one))].sort((a, b) => a - b);
    const ratio = (high + .05) / (low + .05), least = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < least) problems.push(`contrast ${ratio.toFixed(2)}: ${name(one)}`);
  }
  return { width: innerWidth, height, dark, problems: [...new Set(problems)] };
}
