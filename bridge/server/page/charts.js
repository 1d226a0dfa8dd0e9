// One small chart: the last two minutes of a rate, a value a second, the newest at the right.

const CHART_SECONDS = 120;
const SVG = "http://www.w3.org/2000/svg";

class Chart {
  constructor(parent, label, what) {
    this.values = [];
    this.label = label;
    this.now = make("b", { textContent: "–" });
    this.most = make("small");
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${CHART_SECONDS} 40`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    [this.area, this.line] = ["area", "line"].map((name) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
      return path;
    });
    this.svg = svg;
    const head = make("p", { title: what }, make("span", { textContent: label }), this.most, this.now);
    parent.append(make("div", { className: "chart" }, head, svg));
  }

  /** The value of one more second; null where the bridge said nothing. */
  add(value) {
    this.values.push(value ?? null);
    if (this.values.length > CHART_SECONDS + 1) this.values.shift();
    const known = this.values.filter((one) => one !== null);
    const most = Math.max(0, ...known);
    write(this.now, rate(value));
    write(this.most, most > 0 ? `peak ${rate(most)}` : "");
    this.svg.setAttribute("aria-label", `${this.label}: ${rate(value)} a second, at most ${rate(most)} in two minutes`);
    this.draw(Math.max(1, most));
  }

  draw(most) {
    const first = CHART_SECONDS + 1 - this.values.length;
    let line = "";
    let area = "";
    let start = null;
    const end = (x) => {
      if (start !== null) area += `L${x} 40 L${start} 40 Z`;
      start = null;
    };
    this.values.forEach((value, i) => {
      const x = first + i;
      if (value === null) return end(x - 1);
      const point = `${x} ${(38.5 - (value / most) * 35).toFixed(2)}`;
      line += `${start === null ? "M" : "L"}${point}`;
      area += `${start === null ? "M" : "L"}${point}`;
      if (start === null) start = x;
    });
    end(CHART_SECONDS);
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
  }
}
