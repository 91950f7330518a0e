// Keeps the marked parts of a page fresh, and adds a little comfort. Without it every page works all the same.
"use strict";
(() => {
	document.documentElement.classList.add("js");
	const every = 4000; // milliseconds between two fetches; more where the server is slow
	const live = document.getElementById("live");
	const updated = document.getElementById("updated");
	const pause = document.getElementById("pause");
	let last = Date.now(), problem = "", paused = false;

	const say = () => {
		if (!live) return;
		const s = Math.round((Date.now() - last) / 1000);
		const since = s < 2 ? "just now" : s < 60 ? `${s} s ago` : `${Math.floor(s / 60)} min ago`;
		updated.textContent = (problem ? problem + ", " : paused ? "paused, " : "") + "updated " + since;
		live.classList.toggle("paused", paused);
		live.classList.toggle("away", problem !== "");
	};

	// Somebody is in the middle of something: typing, choosing, selecting text.
	const busy = (part) => {
		const at = document.activeElement;
		if (part.contains(at) && at.matches("select, textarea, input:not([type=checkbox])")) return true;
		if (part.querySelector("input:checked, details.hold[open]")) return true;
		const selection = document.getSelection();
		return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
	};
	const known = (e) => e.id || e.getAttribute("formaction") || e.getAttribute("href") || e.getAttribute("aria-label") || e.textContent;

	// Puts the new part in place of the old one. What has the focus, is unfolded or scrolled stays so.
	const swap = (old, fresh) => {
		if (old.innerHTML === fresh.innerHTML || busy(old)) return;
		const at = old.contains(document.activeElement) ? document.activeElement : null;
		for (const d of old.querySelectorAll("details[open][id]")) fresh.querySelector("#" + d.id)?.setAttribute("open", "");
		const scrolled = [...old.querySelectorAll(".scroll")].map((e) => e.scrollLeft);
		old.replaceChildren(...fresh.childNodes);
		old.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
		if (!at) return;
		const same = [...old.querySelectorAll(at.tagName)].find((e) => known(e) === known(at));
		if (same) same.focus({ preventScroll: true });
	};

	const fetchPage = async () => {
		const began = Date.now();
		try {
			const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
			const page = new DOMParser().parseFromString(await answer.text(), "text/html");
			if (page.getElementById("live")?.dataset.page !== live.dataset.page) {
				if (answer.ok) return location.reload(); // from the page of an error to what was asked for
				throw new Error(page.querySelector("h1")?.textContent || `answer ${answer.status}`);
			}
			for (const old of document.querySelectorAll("[data-live]")) {
				const fresh = page.getElementById(old.id);
				if (fresh) swap(old, fresh);
			}
			last = Date.now();
			problem = "";
		} catch (e) {
			problem = e instanceof TypeError ? "the console does not answer" : e.message;
		}
		say();
		setTimeout(turn, Math.max(every, 10 * (Date.now() - began)));
	};
	const turn = () => (paused || document.hidden ? setTimeout(turn, 500) : fetchPage());

	if (live) {
		live.hidden = false;
		pause.addEventListener("click", () => {
			paused = !paused;
			pause.setAttribute("aria-pressed", String(paused));
			say();
		});
		setInterval(say, 1000);
		setTimeout(turn, every);
	}

	// What was done is said once, not again after a reload.
	const url = new URL(location.href);
	if (url.searchParams.has("done")) {
		for (const key of ["done", "changed", "missing"]) url.searchParams.delete(key);
		history.replaceState(null, "", url);
	}

	document.addEventListener("keydown", (e) => {
		if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey || e.target.matches("input, select, textarea")) return;
		e.preventDefault();
		document.getElementById("find").focus();
	});
	document.addEventListener("change", (e) => {
		if (e.target.id === "choose-all") {
			for (const box of document.querySelectorAll("input[name=id]")) box.checked = e.target.checked;
		}
	});
})();
