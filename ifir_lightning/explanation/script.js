function show(event) {
  const token = event.target.closest("[data-match]");
  if (!token) return;
  const side = token.closest(".side");
  side.querySelectorAll(".on").forEach(other => other.classList.remove("on"));
  const matched = side.querySelector('[data-place="' + token.dataset.match + '"]');
  token.classList.add("on");
  matched.classList.add("on");
  side.querySelector("output").textContent = token.dataset.said;
  const box = matched.parentElement;
  box.scrollTop += matched.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
}
for (const kind of ["mouseover", "focusin", "click"]) document.addEventListener(kind, show);
