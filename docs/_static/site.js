// Tables sort by the column whose head is clicked: as numbers where its cells begin with some, else as text.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const found = text.replace(/[,  ](?=\d)/g, "").match(/^-?\d+(\.\d+)?(?:\s*([kMG]))?/);
  return found ? parseFloat(found[0]) * ({ k: 1e3, M: 1e6, G: 1e9 }[found[2]] ?? 1) : text;
};
const compare = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
for (const table of document.querySelectorAll("article table.docutils")) {
  const body = table.tBodies[0];
  if (!table.tHead || body.rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compare(value(a, column), value(b, column)));
      body.append(...rows);
    };
    head.classList.add("sorts");
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}

// What scrolls can be reached by the keyboard, and parts of the page have names that tell them apart.
for (const box of document.querySelectorAll("figure.drawn, pre, .table-wrapper"))
  if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
document.querySelector(".sidebar-drawer")?.setAttribute("aria-label", "pages");
document.querySelector(".toc-drawer")?.setAttribute("aria-label", "on this page");
for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
