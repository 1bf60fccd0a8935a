/**
 * Light, dark or as the system says. A classic script in the head, so that the first paint is right.
 */

(function () {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem("quire-theme");

  function apply() {
    const now = chosen() || (dark.matches ? "dark" : "light");
    root.dataset.theme = now;
    for (const meta of document.querySelectorAll("meta[name=theme-color]")) {
      meta.setAttribute("content", now === "dark" ? "#17181a" : "#fbf9f5");
    }
  }

  dark.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab chose
  addEventListener("quire-theme", (event) => {
    const wanted = /** @type {CustomEvent} */ (event).detail;
    if (wanted) localStorage.setItem("quire-theme", wanted);
    else localStorage.removeItem("quire-theme");
    apply();
  });
  apply();
})();
