import { defineConfig, type Plugin } from 'vite'
import { createHash } from 'node:crypto'

// pictures moves the pictures in Uppy's styles from data: URLs to files, because the gateway's
// Content-Security-Policy does not permit data: URLs (img-src 'self' blob:).
function pictures(): Plugin {
  return {
    name: 'pictures',
    enforce: 'post',
    generateBundle(_, bundle) {
      for (const file of Object.values(bundle)) {
        if (file.type !== 'asset' || !file.fileName.endsWith('.css')) continue
        file.source = String(file.source).replace(/url\((["']?)data:image\/svg\+xml[^,]*,(.*?)\1\)/g, (_match, _quote, text: string) => {
          const source = decodeURIComponent(text)
          const fileName = `assets/${createHash('sha256').update(source).digest('hex').slice(0, 12)}.svg`
          this.emitFile({ type: 'asset', fileName, source })
          return `url(/${fileName})`
        })
        if (/url\(["']?data:/.test(file.source)) this.error(`${file.fileName} still has a data: URL`)
      }
    },
  }
}

export default defineConfig({
  plugins: [pictures()],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: 'licenses.txt' },
    rolldownOptions: { output: { hashCharacters: 'hex' } },
  },
  // Proxies of the development server: run `npx vite` while `make run` serves the functions.
  server: { proxy: Object.fromEntries(['/session', '/upload', '/files', '/accounts'].map((path) => [path, 'http://localhost:8080'])) },
})
