// Put a filter above each long table: only rows that hold every word of the filter stay visible.
const LONG = 30;

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table")) {
    const rows = [...(table.tBodies[0]?.rows ?? [])];
    if (rows.length < LONG || table.closest(".doc")) continue;
    const label = document.createElement("label");
    const input = document.createElement("input");
    const count = document.createElement("output");
    label.className = "table-filter";
    input.type = "search";
    label.append("Filter", input, count);
    const show = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    };
    input.addEventListener("input", show);
    show();
    (table.closest(".md-typeset__scrollwrap") ?? table).before(label);
  }
});
