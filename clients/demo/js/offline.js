/**
 * Registers the service worker, asks it for news, and offers a new version without pressing it on anybody.
 */

import { notice } from "./overlay.js";

/** Begin to keep the app for when there is no network; false where the browser cannot. @returns {Promise<boolean>} */
export async function workOffline() {
  if (!("serviceWorker" in navigator)) return false;
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    if (data?.type === "new-version")
      notice("A new version is ready.", { label: "Use it now", stay: true, action: () => location.reload() });
    if (data?.type === "looked") document.documentElement.dataset.offline = "ready";
  });
  await navigator.serviceWorker.register("sw.js");
  const registration = await navigator.serviceWorker.ready;
  registration.active?.postMessage({ type: "look" });
  return true;
}
