import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";
import { everyStatus, hostileResult, recorded, resultOf, withPlan, written } from "../helpers/records.ts";

const executable = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) =>
  existsSync(path),
);
/** hudson.model.DirectoryBrowserSupport's default. */
const jenkins = "sandbox; default-src 'none'; img-src 'self'; style-src 'self';";
const screenshots = join(root, "test-results/html");

describe("the html report in a browser", needs("chromium", executable !== undefined), () => {
  let browser: Browser;
  let server: Server;
  let folder: string;
  let file: string;
  let served: string;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "oomlab-html-"));
    mkdirSync(screenshots, { recursive: true });
    file = join(folder, "report.html");
    const record = recorded("memcg-v1.ndjson");
    const results = [
      ...Object.values(everyStatus).map((make) => make()),
      resultOf(withPlan(record, { cgroupVersion: 2 })),
      resultOf(recorded("swap-vm-v2.ndjson")),
      hostileResult(),
    ];
    const { output } = await written("html", results, { info: { notes: ["no record of 1 of 9 scenarios"] } });
    writeFileSync(file, output);
    server = createServer((_, response) => {
      response.setHeader("content-type", "text/html");
      response.setHeader("content-security-policy", jenkins);
      response.end(output);
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    served = `http://127.0.0.1:${(server.address() as AddressInfo).port}/report.html`;
    browser = await chromium.launch({ executablePath: executable ?? "", args: ["--no-sandbox"] });
  }, 120_000);

  afterAll(async () => {
    await browser?.close();
    server?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  afterEach(async () => {
    for (const context of browser.contexts()) await context.close();
  });

  /** Opens the page; whatever it says on the console or in a dialog is in `said`. */
  async function open(url: string, options: BrowserContextOptions = {}): Promise<{ page: Page; said: string[] }> {
    const context = await browser.newContext(options);
    const page = await context.newPage();
    const said: string[] = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(error.message));
    page.on("dialog", (dialog) => {
      said.push(`dialog ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      if (request.url() !== url && !request.url().endsWith("/favicon.ico")) said.push(`request ${request.url()}`);
    });
    await page.goto(url);
    return { page, said };
  }
  const disk = (): string => pathToFileURL(file).href;

  test("opens from disk, says nothing on the console and asks for nothing", async () => {
    const { page, said } = await open(disk(), { viewport: { width: 1200, height: 900 } });
    expect(said).toEqual([]);
    expect(await page.title()).toMatch(/^oomlab: 1 failed/);
    await page.screenshot({ path: join(screenshots, "desk.png"), fullPage: true });
  });

  test("shows verdict and evidence under Jenkins' content security policy", async () => {
    const { page, said } = await open(served, { viewport: { width: 1000, height: 900 } });
    // The style sheet is taken away, and nothing else is missed.
    expect(said.filter((text) => !text.includes("style-src"))).toEqual([]);
    expect(await page.evaluate("getComputedStyle(document.body).maxWidth")).toBe("none");
    const section = page.locator("#s2");
    expect(await section.innerText()).toContain("Failed: limit: expected pod, got pod/app.");
    expect(await section.innerText()).toMatch(/Killed process \d+ \(stress\)/);
    expect(await section.locator("svg").isVisible()).toBe(true);
    const link = section.locator(".checks a").first();
    const target = (await link.getAttribute("href")) ?? "";
    await link.click();
    expect(new URL(page.url()).hash).toBe(target);
    expect(await page.locator(target).isVisible()).toBe(true);
    await page.screenshot({ path: join(screenshots, "jenkins.png"), fullPage: true });
  });

  test.each(["light", "dark"] as const)("gives axe nothing to find, %s", async (colorScheme) => {
    const { page } = await open(disk(), { colorScheme, bypassCSP: true });
    await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true");
    await page.evaluate(axe.source);
    const found = await page.evaluate<string[]>(
      "axe.run(document).then(({ violations }) => violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`)))",
    );
    expect(found).toEqual([]);
    if (colorScheme === "dark") await page.screenshot({ path: join(screenshots, "dark.png"), fullPage: true });
  });

  test("follows the system's dark mode", async () => {
    const background = async (colorScheme: "light" | "dark"): Promise<string> => {
      const { page } = await open(disk(), { colorScheme });
      return page.evaluate<string>("getComputedStyle(document.body).backgroundColor");
    };
    expect([await background("light"), await background("dark")]).toEqual(["rgb(255, 255, 255)", "rgb(13, 17, 23)"]);
  });

  test.each([320, 360, 768])("fits a screen %i wide", async (width) => {
    const { page } = await open(disk(), { viewport: { width, height: 740 } });
    await page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true");
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(width);
    if (width === 360) await page.screenshot({ path: join(screenshots, "phone.png"), fullPage: true });
  });

  test("is read by keyboard: past the head, to a scenario, to its evidence, to the line", async () => {
    const { page } = await open(disk());
    const focused = (): Promise<string> =>
      page.evaluate<string>("document.activeElement.getAttribute('href') ?? document.activeElement.tagName");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("#results");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    expect(await focused()).toMatch(/^#s\d+$|DIV/);
    await page.goto(`${disk()}#s1`);
    // A passed scenario's evidence is folded; the next stop is what unfolds it.
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("SUMMARY");
    expect(await page.locator("#s1 .checks").isVisible()).toBe(false);
    await page.keyboard.press("Enter");
    expect(await page.locator("#s1 .checks").isVisible()).toBe(true);
    await page.keyboard.press("Tab");
    const target = await focused();
    expect(target).toMatch(/^#s1-line\d+$/);
    await page.keyboard.press("Enter");
    expect(await page.evaluate("document.querySelector(':target')?.id")).toBe(target.slice(1));
  });

  test("prints all of it, also what is folded and what scrolls", async () => {
    const { page } = await open(disk());
    await page.emulateMedia({ media: "print" });
    const shown = await page.evaluate<{ height: number; cut: boolean; visible: boolean }[]>(
      "[...document.querySelectorAll('#s1 pre')].map((pre) => ({ height: pre.getBoundingClientRect().height, cut: pre.scrollHeight > pre.clientHeight + 1, visible: pre.checkVisibility() }))",
    );
    expect(shown.length).toBe(1);
    expect(shown[0]?.height).toBeGreaterThan(500);
    expect(shown[0]).toMatchObject({ cut: false, visible: true });
    await page.pdf({ path: join(screenshots, "paper.pdf"), format: "A4" });
  });

  test("makes nothing of a hostile name but text", async () => {
    const { page, said } = await open(disk());
    expect(said).toEqual([]);
    const made = await page.evaluate("document.querySelectorAll('script, img, iframe, object, link').length");
    expect(made).toBe(0);
    expect(await page.locator("#s8 h2").innerText()).toContain("<script>alert(1)</script>");
  });
});
