/**
 * Light, dark or as the system says. A classic script in the head, so that the first paint is right.
 */

(function () {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function apply() {
    const now = localStorage.getItem("hub-theme") || (dark.matches ? "dark" : "light");
    root.dataset.theme = now;
    document.querySelector("meta[name=theme-color]")?.setAttribute("content", now === "dark" ? "#121618" : "#f6f7f7");
  }

  dark.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab chose
  addEventListener("hub-theme", (event) => {
    const wanted = /** @type {CustomEvent} */ (event).detail;
    if (wanted) localStorage.setItem("hub-theme", wanted);
    else localStorage.removeItem("hub-theme");
    apply();
  });
  apply();
})();
